"""Commands about those who pay: accounts, users, keys, money.

accounts  `relay account` and `relay line`: who pays, and what is on sale
codes     `relay code`: redemption codes, made, listed, redeemed
keys      `relay key`: made, listed, switched off and on, deleted
money     `relay recharge`, `credit`, `balance`, `ledger`, `audit`: what an account has, and why
orders    `relay order`: recharges on their way, from opened to credited
users     `relay user`: who may sign in to the console
"""
