"""What `python -m ardiffusion.tools.benchmark` measures, a module per mode."""
