"""`python -m training` is `drd-train`."""

from training.cli import main

raise SystemExit(main())
