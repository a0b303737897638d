from data_sets import made  # noqa: F401 (a fixture)
