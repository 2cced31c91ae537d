"""A simulated data set: hepatobiliary-phase (gadoxetate) liver MR with vessels, lesions and their labels."""
