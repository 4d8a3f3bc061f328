"""Typed configs: one YAML per run, checked on load, every mistake one clear line. Imports no torch."""

from robotlearn.config.address import is_loopback, normal_address
from robotlearn.config.algorithms import (
    AlgorithmConfig,
    GRPOConfig,
    HGDaggerConfig,
    PathConfig,
    PPOConfig,
    RLPDConfig,
    SACConfig,
    SFTConfig,
)
from robotlearn.config.config import Config, DemonstrationsConfig, StartConfig
from robotlearn.config.edge import BatchEdgeConfig, EdgeConfig, ExecutionConfig, PacedEdgeConfig, SpoolConfig
from robotlearn.config.environment import ObservationsConfig, RandomizationConfig
from robotlearn.config.learner import LearnerConfig
from robotlearn.config.load import dump, load_config
from robotlearn.config.policy import (
    FlowMLPConfig,
    FlowTransformerConfig,
    GaussianConfig,
    PolicyConfig,
    SquashedGaussianConfig,
)

__all__ = [
    "AlgorithmConfig",
    "BatchEdgeConfig",
    "Config",
    "DemonstrationsConfig",
    "EdgeConfig",
    "ExecutionConfig",
    "FlowMLPConfig",
    "FlowTransformerConfig",
    "GRPOConfig",
    "GaussianConfig",
    "HGDaggerConfig",
    "LearnerConfig",
    "ObservationsConfig",
    "PPOConfig",
    "PacedEdgeConfig",
    "PathConfig",
    "PolicyConfig",
    "RLPDConfig",
    "RandomizationConfig",
    "SACConfig",
    "SFTConfig",
    "SpoolConfig",
    "SquashedGaussianConfig",
    "StartConfig",
    "dump",
    "is_loopback",
    "load_config",
    "normal_address",
]
