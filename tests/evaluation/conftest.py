from data_sets import made, model, no_network, real  # noqa: F401 (fixtures)
