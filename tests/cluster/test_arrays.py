"""Arrays and tables of a run's own folder: what is damaged is one error that names the file."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from noiseweave.cluster import arrays, storage

SCHEMA = pa.schema([("key", pa.string()), ("size", pa.int64())])


def written(path, rows, schema=SCHEMA):
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer)
    path.write_bytes(buffer.getvalue())
    return str(path)


def test_an_array_comes_back():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(arrays.array(arrays.npy(x)), x)


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00\x0f\x00{'descr': '<f4,", b"\x80\x04."]
)
def test_bytes_that_are_no_array(data):
    with pytest.raises(storage.Damaged, match="no array"):
        arrays.array(data)


def test_columns_of_a_table(tmp_path):
    path = written(tmp_path / "a.parquet", [{"key": "a", "size": 3}])
    assert arrays.table(path, SCHEMA).to_pylist() == [{"key": "a", "size": 3}]
    assert arrays.table(path, ["key"]).to_pylist() == [{"key": "a"}]


def test_a_damaged_table_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    written(path, [{"key": "a" * 50, "size": 3}])
    whole = path.read_bytes()
    for data in (b"", b"PAR1", whole[:-6], whole[: len(whole) // 2] + b"\xff" * (len(whole) // 2)):
        path.write_bytes(data)
        with pytest.raises(storage.Damaged, match=r"a\.parquet: no table"):
            arrays.table(str(path), SCHEMA)
    written(path, [{"key": "a"}], pa.schema([("key", pa.string())]))
    with pytest.raises(storage.Damaged, match=r"a\.parquet: no table"):
        arrays.table(str(path), SCHEMA)
    written(path, [{"key": "a", "size": "x"}], pa.schema([("key", pa.string()), ("size", pa.string())]))
    with pytest.raises(storage.Damaged, match=r"a\.parquet: no table"):
        arrays.table(str(path), SCHEMA)
