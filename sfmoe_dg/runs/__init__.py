"""What a run is, without torch: its specification, hyper-parameters, folder, lease, progress and records."""
