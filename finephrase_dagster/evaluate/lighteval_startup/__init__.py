"""A folder for PYTHONPATH, with which lighteval's own command starts: see `sitecustomize`."""
