"""Sphinx: `sphinx-build -W docs docs/_build`, with the [docs] extra."""

project = "lora_ref"
copyright = "the lora_ref authors, BSD-3-Clause"
extensions = ["myst_nb"]
html_theme = "furo"
html_title = "lora_ref"
exclude_patterns = ["_build"]
# The pages are run by pytest; here they are only shown.
nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
