"""Gradio, which sends no statistics from here. Importing this module without it raises UserError."""

from __future__ import annotations

import os

from jfusion.errors import UserError, optional

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
gr = optional("gradio", "Gradio", "the page", "app")
if int(gr.__version__.split(".")[0]) < 6:
    raise UserError(
        f"the page needs Gradio 6, not {gr.__version__}; install it with: pip install -U 'jfusion[app]'"
    )
