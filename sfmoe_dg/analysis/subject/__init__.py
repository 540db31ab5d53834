"""What is analysed: an opened run, its images with their annotations, and what the model did with them."""
