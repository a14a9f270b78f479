"""The pages: a struct of everything a template is given, and the template's name.

account    The pages of an account, on the console's own listener
entrances  The pages of whoever is not signed in, and of what went wrong
frame      What all pages have in common: the frame around them, and what some of them share
operator   The operator's pages, on the admin listener

  A template sees `view` (one of these) and `frame`, and nothing else: no database, no request.
  tests/console/samples.py holds a sample of each, from which the rig draws every page. Fields are
  named as the API names them.
"""

from relay.console.views.account import (
    BillingView,
    Choices,
    KeyDetailView,
    KeysView,
    LogDetailView,
    LogFilter,
    LogsView,
    OverviewView,
    PricesView,
    SettingsView,
    UsageView,
)
from relay.console.views.entrances import (
    FailureView,
    InvitationView,
    LinkView,
    LoginView,
)
from relay.console.views.frame import (
    Frame,
    Need,
    Notice,
    View,
)
from relay.console.views.operator import (
    AccountsView,
    AuditView,
    CatalogView,
    ChangeShown,
    ChannelsView,
    LinesView,
    MaintenanceView,
    OperatorLogsView,
    OperatorOverviewView,
    OperatorPricesView,
    OrdersView,
    PlannedPrice,
    PriceDraft,
    PricePreview,
    UsersView,
)

VIEWS: tuple[type[View], ...] = (
    LoginView,
    InvitationView,
    LinkView,
    FailureView,
    OverviewView,
    LogsView,
    LogDetailView,
    UsageView,
    KeysView,
    KeyDetailView,
    BillingView,
    PricesView,
    SettingsView,
    OperatorLogsView,
    OperatorOverviewView,
    ChannelsView,
    LinesView,
    AccountsView,
    CatalogView,
    OperatorPricesView,
    OrdersView,
    MaintenanceView,
    AuditView,
    UsersView,
)

__all__ = [
    "VIEWS",
    "AccountsView",
    "AuditView",
    "BillingView",
    "CatalogView",
    "ChangeShown",
    "ChannelsView",
    "Choices",
    "FailureView",
    "Frame",
    "InvitationView",
    "KeyDetailView",
    "KeysView",
    "LinesView",
    "LinkView",
    "LogDetailView",
    "LogFilter",
    "LoginView",
    "LogsView",
    "MaintenanceView",
    "Need",
    "Notice",
    "OperatorLogsView",
    "OperatorOverviewView",
    "OperatorPricesView",
    "OrdersView",
    "OverviewView",
    "PlannedPrice",
    "PriceDraft",
    "PricePreview",
    "PricesView",
    "SettingsView",
    "UsageView",
    "UsersView",
    "View",
]
