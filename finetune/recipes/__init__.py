"""One module a recipe, its YAML beside it: `Config` and `run(config, data, out, quiet)`. A folder holds a large one."""
