"""Policies: networks that turn observations into action chunks, with all that reinforcement learning needs to know.

Imports nothing of the other packages here.
"""

from policies.base import Chunk, Plan, Policy
from policies.check import check_policy
from policies.chunk_policy import ChunkPolicy
from policies.critics import Critics
from policies.errors import PolicyError
from policies.flow_mlp import FlowMLP
from policies.flow_transformer import FlowTransformer
from policies.gaussian import GaussianPolicy
from policies.normalizer import Statistics, statistics
from policies.registry import make_policy, policies, register_policy
from policies.squashed_gaussian import SquashedGaussianPolicy
from policies.value import ValueNet

__all__ = [
    "Chunk",
    "ChunkPolicy",
    "Critics",
    "FlowMLP",
    "FlowTransformer",
    "GaussianPolicy",
    "Plan",
    "Policy",
    "PolicyError",
    "SquashedGaussianPolicy",
    "Statistics",
    "ValueNet",
    "check_policy",
    "make_policy",
    "policies",
    "register_policy",
    "statistics",
]
