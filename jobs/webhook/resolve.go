package webhook

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"
)

// resolvers are asked in turn until a resolver answers.
type resolvers []*net.Resolver

// newResolvers returns the resolvers at the given addresses, or the system's where none is
// given. Go's own code asks them: the C library's would hold a thread for each name, and
// can't be told to give up.
func newResolvers(addresses []netip.AddrPort) resolvers {
	if len(addresses) == 0 {
		return resolvers{{PreferGo: true}}
	}
	var asked resolvers
	for _, address := range addresses {
		asked = append(asked, &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address.String())
		}})
	}
	return asked
}

// lookup returns the addresses of an absolute name; IPv4 addresses that DNS wrapped in
// IPv6 are unwrapped. Each resolver has its share of the time that ctx leaves.
func (r resolvers) lookup(ctx context.Context, name string) (addresses []netip.Addr, err error) {
	for i, resolver := range r {
		addresses, err = lookupWith(ctx, resolver, name, len(r)-i)
		var failure *net.DNSError
		if err == nil || ctx.Err() != nil || errors.As(err, &failure) && failure.IsNotFound {
			return addresses, err
		}
	}
	return nil, err
}

func lookupWith(ctx context.Context, resolver *net.Resolver, name string, shares int) ([]netip.Addr, error) {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/time.Duration(shares))
		defer cancel()
	}
	addresses, err := resolver.LookupNetIP(ctx, "ip", name)
	for i := range addresses {
		addresses[i] = addresses[i].Unmap()
	}
	return addresses, err
}
