"""Tests; a package of this name is also installed by `pgx`, which would else come first."""
