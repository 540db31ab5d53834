"""Statistics that several analyses share: information, resampling, comparison of methods, baselines."""
