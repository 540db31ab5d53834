"""What several objectives share: penalties with annealing, gradients per domain, kernels, averages of weights."""
