"""A package of its own, so that no installed one of this name comes first: draccus, which lerobot needs, brings one."""
