"""The noise that a model sees, whatever it predicts."""

from noiseweave.engine.diffusion.path import noise_of


def noise_in(model, out, x, t):
    """What a network's output says of the noise in x, at each row's time step of a noise schedule."""
    a = model.scheduler.alphas_cumprod[t].double()
    factors = noise_of(model.prediction, a.sqrt(), (1 - a).sqrt())
    of_x, of_out = (f.float().view(-1, 1, 1, 1) for f in factors)
    return of_x * x + of_out * out
