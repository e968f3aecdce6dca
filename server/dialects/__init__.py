"""The HTTP vocabularies: each a blueprint, its OpenAPI document, and nothing else."""
