# DBD::Pg: arguments are the port, the user and the password.
use strict;
use warnings;
use DBI;

my ($port, $user, $password) = @ARGV;
my $handle = DBI->connect("dbi:Pg:host=127.0.0.1;port=$port;dbname=postgres", $user, $password, { PrintError => 0 })
    or do { print STDERR $DBI::errstr, "\n"; exit 1 };
my ($answer) = $handle->selectrow_array("select 6 * ?::int", undef, 7);
print "$answer\n";
$handle->disconnect;
