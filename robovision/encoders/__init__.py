"""Image encoders: vision transformers, CoIn, and the contract that they all fulfil."""
