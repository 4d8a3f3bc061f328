"""The environment that a config asks for. Imports no torch."""

from envs import EnvOptions
from robotlearn.config.config import Config


def env_options(config: Config) -> EnvOptions:
    """What the config's environments show, pay and vary."""
    return EnvOptions(episode_steps=config.episode_steps)
