"""The drivers that come with the package. Imported only when `hal.registry.make_robot` asks for one."""
