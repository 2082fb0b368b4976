from collections import Counter

from noiseweave.engine.lora.order import Order


def test_one_size_is_seen_once_in_each_pass():
    order = Order([(8, 8)] * 10, batch=4, steps=10, seed=0)
    rows = [order.of(step) for step in range(10)]
    flat = [i for row in rows for i in row]
    assert [sorted(flat[n : n + 10]) for n in (0, 10, 20, 30)] == [list(range(10))] * 4
    assert flat[:10] != flat[10:20]


def test_a_batch_has_one_size_and_each_picture_comes_as_often():
    sizes = [(8, 8)] * 6 + [(8, 16)] * 3 + [(16, 8)]
    order = Order(sizes, batch=4, steps=2000, seed=3)
    uses: Counter[int] = Counter()
    for step in range(2000):
        row = order.of(step)
        assert len({sizes[i] for i in row}) == 1
        uses.update(row)
    assert all(abs(uses[i] - 800) < 200 for i in range(10)), uses
    within = [uses[i] for i in range(6)]
    assert max(within) - min(within) <= 1


def test_a_step_is_known_without_those_before_it():
    sizes = [(8, 8)] * 5 + [(8, 16)] * 2
    whole = Order(sizes, batch=3, steps=50, seed=1)
    rows = [whole.of(step) for step in range(50)]
    assert Order(sizes, batch=3, steps=50, seed=1).of(37) == rows[37]
    assert [Order(sizes, batch=3, steps=50, seed=2).of(s) for s in range(50)] != rows
