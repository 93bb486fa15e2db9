"""The sub-commands of `jfusion`, a module each, named as it is typed; `jfusion/cli.py` says how they are run."""
