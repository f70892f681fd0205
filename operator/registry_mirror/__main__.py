"""``python -m registry_mirror`` is ``registry-mirror``."""

from .cli.main import main

main()
