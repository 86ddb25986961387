"""One flat module a recipe, each with its YAML. A recipe has `Config` and `run(config, data, out, quiet)`."""
