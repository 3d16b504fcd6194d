"""Decoding strategies, one file a paper.

What is not here, since it reads or changes the inside of a model, of which a session shows what early layers would say
(`dola`) and no more:

AvisC (2405.17820)      zeroes image tokens by their attention, layer by layer
SID (2408.02032)        keeps the least attended image tokens after layer 2
PAI (2407.21771)        its change of attention; its logit part is `pai`
IBD (2402.18476)        raises attention to image tokens; its exact formula is not verified
OPERA (2311.17911)      penalizes beams by products of attention and rolls back
Batch-ICL (2401.06469)  adds up hidden updates of one-shot prompts
HALC (2403.00425)       ranks beams with a detector and BLIP, and makes branches in mid-sentence
CD (2210.15097)         contrasts a smaller model: two models at one time

VCD in the place of AvisC and SID, `pai` for PAI and IBD, `beam` for OPERA, and `nbce` or `moicl` for Batch-ICL are the
nearest that run.
"""
