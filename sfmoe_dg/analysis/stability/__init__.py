"""Whether experts go with the same attributes in other domains and in other runs."""
