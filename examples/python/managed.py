# SPDX-License-Identifier: MIT
"""A manager with a type of one's own: accounts that several processes use."""

import sidestep
from sidestep.managers import BaseManager


# start-type
class Account:
    def __init__(self, balance=0):
        self._balance = balance

    def deposit(self, amount):
        self._balance += amount

    def balance(self):
        return self._balance


class Bank(BaseManager):
    pass


Bank.register("Account", Account)
# end-type


def earn(account, times):
    for _ in range(times):
        account.deposit(1)


def main():
    # start-use
    with Bank() as bank:
        account = bank.Account(100)
        worker = sidestep.Process(target=earn, args=(account, 50))
        worker.start()
        worker.join()
        print(f"balance: {account.balance()}")
    # end-use


if __name__ == "__main__":
    main()
