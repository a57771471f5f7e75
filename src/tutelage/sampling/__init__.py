"""Writing responses: the project's own engine and vLLM behind one protocol, `Sampler`."""

from tutelage.sampling.make_sampler import make_sampler
from tutelage.sampling.sampler import Sampler

__all__ = ["Sampler", "make_sampler"]
