"""The console: a process of its own that shows and changes, and carries no call.

account_notices  Tells an account itself of what its operator is told as well
checkout         Payment pages at Stripe: made for an order, and asked how they stand
checkout_orders  Orders that are paid at Stripe: their pages, and asking how they stand
headers          What every answer of the console says to a browser: nothing from elsewhere,
                 nothing inline
mail             Mail to people, by the server of [console.mail]: plain text, a few words and a link
oidc             Signing in at an identity provider: OpenID Connect's code flow with PKCE, as its
                 client
pace             How fast long work goes beside what people wait for: all the time there is, or
                 half of it
render           Views into HTML: one Jinja environment, the filters of numbers and moments, texts,
                 static files
routes           A path of the console as a value: what it asks for, what it answers, and who may
                 call it
rows             What API and pages show, as typed rows: one name for one thing, in JSON, on a
                 page, in a CSV
server           The two applications, and what all their paths have in common
services         What the console's handlers work with: the pool, the keys of digests, the
                 renderer, the throttle
sites            The two sides of the console: which paths each has. Nothing of the one is on the
                 other
account_api/     /account/v1: what an account does with itself, by a session or a management key
operator_api/    /admin/v1: what the console adds to it, and the document of all of it
pages/           The pages' paths: a handler reads what its view needs and returns it, or acts and
                 redirects
queries/         What Postgres is asked: few statements a view, never a count of the log, never an
                 OFFSET
signin/          Who somebody is, and what they may do
views/           The pages: a struct of everything a template is given, and the template's name

  Templates, texts and static files are in folders of these names.

  The account's side listens on [server] console and is fit for the public behind a TLS proxy. The
  operator's side listens on a socket file that the admin listener passes on to: none of its paths
  can be reached from the public one, and a console that dies takes no health check with it.
"""
