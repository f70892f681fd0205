// bcrypt prints the hash of the password on its standard input, for a registry's htpasswd file.
package main

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/crypto/bcrypt"
)

func main() {
	password, err := io.ReadAll(os.Stdin)
	if err == nil {
		var hash []byte
		// The least cost: the registry compares at every request, and these passwords are for tests.
		if hash, err = bcrypt.GenerateFromPassword(password, bcrypt.MinCost); err == nil {
			fmt.Println(string(hash))
			return
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
