"""Decoding strategies, one file per paper.

Methods that change or read the inside of a model are missing, because a session only provides logits and the logits of
early layers (`dola`):

    method                  what it needs                                               nearest strategy
    AvisC (2405.17820)      zeroes image tokens by their attention in each layer        vcd
    SID (2408.02032)        keeps the least attended image tokens after layer 2         vcd
    PAI (2407.21771)        changes attention; its logit part is `pai`                  pai
    IBD (2402.18476)        raises attention to image tokens; formula not verified      pai
    OPERA (2311.17911)      penalizes beams by products of attention and rolls back     beam
    Batch-ICL (2401.06469)  sums hidden updates of one-shot prompts                     nbce, moicl
    HALC (2403.00425)       ranks beams with a detector and BLIP, branches in a text    -
    CD (2210.15097)         contrasts with a smaller model: two models at once          -
"""
