"""Typed configs: one YAML per run, checked on load, every mistake one clear line. Imports no torch."""

from robotlearn.config.address import is_loopback, normal_address
from robotlearn.config.algorithms import PPOConfig, SFTConfig
from robotlearn.config.config import Config, DemonstrationsConfig, StartConfig
from robotlearn.config.edge import BatchEdgeConfig, EdgeConfig, PacedEdgeConfig, SpoolConfig
from robotlearn.config.learner import LearnerConfig
from robotlearn.config.load import dump, load_config
from robotlearn.config.policy import PolicyConfig

__all__ = [
    "BatchEdgeConfig",
    "Config",
    "DemonstrationsConfig",
    "EdgeConfig",
    "LearnerConfig",
    "PPOConfig",
    "PacedEdgeConfig",
    "PolicyConfig",
    "SFTConfig",
    "SpoolConfig",
    "StartConfig",
    "dump",
    "is_loopback",
    "load_config",
    "normal_address",
]
