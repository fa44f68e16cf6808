"""PipeFusion (arXiv 2405.14430): each rank runs a stage of the blocks, and parts of the sequence flow through.

A part ("patch") has tokens as a rank of sequence parallelism has them, so the engine cuts and gathers it as it does
there; which ones, plan/patch_lengths.py says.
The model's own forward runs once for each patch on every stage, with the blocks of other stages passed over; attention
sees this patch's queries, and the keys and values of the whole sequence: fresh ones of the patches that went before,
those of the last model call of the same conditions for the patches to come. All stages have the whole output at the end
of every model call, so any sampler may follow.
"""
