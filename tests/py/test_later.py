# SPDX-License-Identifier: MIT
"""What comes in later versions says so, and what to use meanwhile."""

import pytest

import sidestep
from sidestep import managers


@pytest.mark.parametrize(
    "call",
    [
        lambda: sidestep.Manager(),
        lambda: managers.BaseManager().start(),
        lambda: managers.BaseManager(("localhost", 1)).connect(),
        lambda: managers.BaseManager().get_server(),
        lambda: managers.SyncManager().dict(),
        lambda: managers.SharedMemoryManager().SharedMemory(10),
    ],
)
def test_it_says_so(call):
    with pytest.raises(
        NotImplementedError, match=r"in a later version.*until then use"
    ):
        call()


def test_types_can_be_registered():
    class Mine(managers.BaseManager):
        pass

    proxy = managers.MakeProxyType("Proxy", ("get",))
    Mine.register("Thing", dict, proxytype=proxy, exposed=("get",))
    Mine.register("Hidden", create_method=False)
    assert set(Mine._registry) == {"Thing", "Hidden"}
    assert managers.BaseManager._registry == {}
    assert callable(Mine.Thing)
    assert not hasattr(Mine, "Hidden")
    assert proxy._exposed_ == ("get",)
