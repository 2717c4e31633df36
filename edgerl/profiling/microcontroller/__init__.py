"""Measuring C for microcontrollers on a workstation: what it takes, what it executes, and models of what that costs.

Sizes come from the cross compiler, instructions from QEMU, cycles from published timing tables: an instruction is not a
cycle, and no board is involved. `measure.py` is what others use.
"""
