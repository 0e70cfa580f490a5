"""What a run trains: a detector, or its sensor branches alone. Both go from a batch to predictions to losses."""

from perception.detector import Detector
from perception.pretraining import BranchPretraining
from tools.run_config import RunConfig

Network = Detector | BranchPretraining


def network_of(config: RunConfig) -> Network:
    """The network of `training.objective`, with new weights."""
    if config.training.objective == "detection":
        return Detector(config.detector)
    return BranchPretraining(config.detector)
