# Whoever gets through the routes is allowed.
package postern.authz

decision := true
