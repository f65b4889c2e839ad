from .generation.samplers import BeamSampler as BeamSampler
from .generation.samplers import ContrastiveSampler as ContrastiveSampler
from .generation.samplers import GreedySampler as GreedySampler
from .generation.samplers import MinPSampler as MinPSampler
from .generation.samplers import RandomSampler as RandomSampler
from .generation.samplers import TopKSampler as TopKSampler
from .generation.samplers import TopPSampler as TopPSampler
from .generation.samplers import get as get
