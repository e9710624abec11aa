"""One module per section of `python -m homae_jax.benchmark SECTION`.

A section is a module whose first docstring line says what it measures, with

    add_arguments(parser)   its options; --repeats and --json are there already
    run(options)            yields a Measurement after the other

It appears by being here; modules that begin with an underscore are none.
"""
