"""/admin/v1: what the console adds to it, and the document of all of it.

described  The paths of /admin/v1 that the control process serves, as the OpenAPI document tells
           them
people     Users of all accounts, operators, and the audit log
"""
