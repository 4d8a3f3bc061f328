"""The commands about robots, one module each; `robotlearn.cli` puts them under one name. Importing them is cheap."""
