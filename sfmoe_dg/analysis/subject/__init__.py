"""The subject of an analysis: an opened run, its images with their annotations, and the routing of its model."""
