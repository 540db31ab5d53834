"""Other people's code: DomainBed (both ways) and the released V-MoE checkpoints."""
