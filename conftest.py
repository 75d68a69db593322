"""What holds for tests and notebooks alike; the tests' own fixtures are beside them."""

pytest_plugins = ["nbval_tolerance"]
