"""Checkpoint → bundle, and everything that reads bundles."""

import os

# ONNX Runtime reports each start to Microsoft, and who imports it first decides.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
