"""Decoding strategies, one file per method or family of small methods.

Methods that are not here, and the nearest one that is:

    method                  what it does                                                nearest
    IBD (2402.18476)        raises attention to image tokens; formula not verified      pai, attention_scaling
    HALC (2403.00425)       ranks beams with a detector and BLIP, branches in a text    -
    CD (2210.15097)         contrasts with a smaller model: two models at once          -
"""
