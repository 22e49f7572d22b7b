"""A device and what was measured on it; imports none of our other packages."""

from hwprofiles.device import Device
from hwprofiles.files import MeasuredNetwork, Profile, read_profile, write_profile
from hwprofiles.lowering import lower
from hwprofiles.ops import INPUT, OpGraph, OpSpec
from hwprofiles.runtimes import Lowering, Runtime, lowering_of, open_runtime
from hwprofiles.samples import Rounds, Summary, measure

__all__ = [
    "INPUT",
    "Device",
    "Lowering",
    "MeasuredNetwork",
    "OpGraph",
    "OpSpec",
    "Profile",
    "Rounds",
    "Runtime",
    "Summary",
    "lower",
    "lowering_of",
    "measure",
    "open_runtime",
    "read_profile",
    "write_profile",
]
