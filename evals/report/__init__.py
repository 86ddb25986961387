"""One HTML file, or a Markdown table, of what a folder of runs measured."""
