package jose

import (
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// smallPrimes are the odd primes up to 167. Each of them divides the number M
// from which the ROCA generator made its primes, for every key length in use.
var smallPrimes = [...]uint64{
	3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73,
	79, 83, 89, 97, 101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157,
	163, 167,
}

// checkRSA refuses an exponent under which a signature proves nothing or costs
// too much, and a weak modulus. 2^31-1 is the largest exponent that crypto/rsa
// takes.
func checkRSA(p *rsa.PublicKey) error {
	if p == nil || p.N == nil {
		return errors.New("it has no modulus")
	}
	if p.E < 3 || p.E > 1<<31-1 || p.E%2 == 0 {
		return errors.New("its public exponent is not an odd number from 3 to 2^31-1")
	}
	return checkModulus(p.N)
}

// checkSecret refuses a shared secret that is shorter than the smallest hash.
func checkSecret(k SymmetricKey) error {
	if k.size() < minSymmetricBytes {
		return fmt.Errorf("its secret has %d bytes, at least %d are required", k.size(), minSymmetricBytes)
	}
	return nil
}

// checkModulus refuses a modulus that is too short, too long, or plainly not the
// product of two random primes. It is cheap enough for a thousand keys; it does
// not try to factor.
//
// A modulus of the ROCA generator (CVE-2017-15361) is a power of 65537 modulo M,
// so modulo each of the small primes as well. That a good modulus is so by
// chance is less likely than 2^-100.
func checkModulus(n *big.Int) error {
	switch bits := n.BitLen(); {
	case bits < minRSABits || bits > maxRSABits:
		return fmt.Errorf("its modulus has %d bits, %d to %d are accepted", bits, minRSABits, maxRSABits)
	case n.Bit(0) == 0:
		return errors.New("its modulus is even")
	}
	roca := true
	var rest, divisor big.Int
	for _, p := range smallPrimes {
		r := rest.Mod(n, divisor.SetUint64(p)).Uint64()
		if r == 0 {
			return fmt.Errorf("its modulus is divisible by %d", p)
		}
		roca = roca && isPowerOf65537(r, p)
	}
	if roca {
		return errors.New("its modulus is of the ROCA generator and can be factored (CVE-2017-15361)")
	}
	return nil
}

// isPowerOf65537 reports whether r is a power of 65537 modulo the prime p.
func isPowerOf65537(r, p uint64) bool {
	for x := uint64(1); ; {
		if x == r {
			return true
		}
		if x = x * 65537 % p; x == 1 {
			return false
		}
	}
}

// The field and the constant d of edwards25519 (RFC 8032 section 5.1).
var (
	edwardsP = fieldPrime()
	edwardsD = fieldElement("37095705934669439343138083508754565189542113879843219016388785533085940283555")
	// edwardsLowOrder are the y coordinates of the eight points whose order
	// divides 8. Under such a key one signature fits many messages.
	edwardsLowOrder = [...]*big.Int{
		big.NewInt(0),
		big.NewInt(1),
		new(big.Int).Sub(edwardsP, big.NewInt(1)),
		fieldElement("2707385501144840649318225287225658788936804267575313519463743609750303402022"),
		fieldElement("55188659117513257062467267217118295137698188065244968500265048394206261417927"),
	}
)

func fieldPrime() *big.Int {
	p := new(big.Int).Lsh(big.NewInt(1), 255)
	return p.Sub(p, big.NewInt(19))
}

func fieldElement(decimal string) *big.Int {
	n, _ := new(big.Int).SetString(decimal, 10)
	return n
}

// checkEdwards refuses what is no canonical encoding of a point of edwards25519
// (RFC 8032 section 5.1.3), and the points of low order.
func checkEdwards(key ed25519.PublicKey) error {
	// The encoding is y, least byte first; its top bit is the sign of x.
	b := slices.Clone(key)
	slices.Reverse(b)
	b[0] &= 0x7f
	y := new(big.Int).SetBytes(b)
	if y.Cmp(edwardsP) >= 0 {
		return errors.New("its point is not encoded canonically")
	}
	if slices.ContainsFunc(edwardsLowOrder[:], func(low *big.Int) bool { return low.Cmp(y) == 0 }) {
		return errors.New("its point is of low order")
	}
	// x² = (y²-1)/(dy²+1) has a root if and only if the product of both is a
	// square.
	one := big.NewInt(1)
	square := new(big.Int).Mul(y, y)
	u := new(big.Int).Sub(square, one)
	v := new(big.Int).Mul(square, edwardsD)
	u.Mul(u, v.Add(v, one)).Mod(u, edwardsP)
	if big.Jacobi(u, edwardsP) < 0 {
		return errors.New("its point is not on the curve Ed25519")
	}
	return nil
}
